//go:build race

package clustertests

// raceDetector: the program is built with it too. Figures of memory and speed
// mean nothing then.
const raceDetector = true
