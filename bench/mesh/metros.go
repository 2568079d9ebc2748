package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// metro is a place where POPs are.
type metro struct {
	code string
	at   geo.Position
}

var metros = []metro{
	{"ams", geo.Position{Lat: 52.37, Lon: 4.90}}, {"bom", geo.Position{Lat: 19.08, Lon: 72.88}},
	{"cpt", geo.Position{Lat: -33.92, Lon: 18.42}}, {"dfw", geo.Position{Lat: 32.78, Lon: -96.80}},
	{"dxb", geo.Position{Lat: 25.20, Lon: 55.27}}, {"fra", geo.Position{Lat: 50.11, Lon: 8.68}},
	{"gru", geo.Position{Lat: -23.55, Lon: -46.63}}, {"hkg", geo.Position{Lat: 22.32, Lon: 114.17}},
	{"iad", geo.Position{Lat: 39.04, Lon: -77.49}}, {"icn", geo.Position{Lat: 37.57, Lon: 126.98}},
	{"lax", geo.Position{Lat: 34.05, Lon: -118.24}}, {"lhr", geo.Position{Lat: 51.51, Lon: -0.13}},
	{"los", geo.Position{Lat: 6.52, Lon: 3.38}}, {"mad", geo.Position{Lat: 40.42, Lon: -3.70}},
	{"nrt", geo.Position{Lat: 35.68, Lon: 139.69}}, {"scl", geo.Position{Lat: -33.45, Lon: -70.67}},
	{"sin", geo.Position{Lat: 1.35, Lon: 103.82}}, {"sjc", geo.Position{Lat: 37.34, Lon: -121.89}},
	{"syd", geo.Position{Lat: -33.87, Lon: 151.21}},
}

const (
	earth  = 6371.0                        // km, mean radius
	within = 500 * time.Microsecond        // one way between two POPs of one metro
	perKM  = time.Second / 200_000 * 3 / 2 // light in fibre takes 2/3 of its speed, and cables detours
)

// oneWay is how long a packet takes from one metro to another.
func oneWay(a, b metro) time.Duration {
	if a == b {
		return within
	}
	v, w := a.at.Vector(), b.at.Vector()
	angle := math.Acos(min(1, max(-1, v.X*w.X+v.Y*w.Y+v.Z*w.Z)))
	return max(within, time.Duration(angle*earth*float64(perKM))).Round(10 * time.Microsecond)
}

// longest is the longest round trip there is.
func longest() (rtt time.Duration) {
	for _, a := range metros {
		for _, b := range metros {
			rtt = max(rtt, 2*oneWay(a, b))
		}
	}
	return rtt
}

// table is all of it in milliseconds, one way; testdata/latencies.txt.
func table() string {
	var b strings.Builder
	b.WriteString("   ")
	for _, m := range metros {
		fmt.Fprintf(&b, " %5s", m.code)
	}
	for _, m := range metros {
		fmt.Fprintf(&b, "\n%s", m.code)
		for _, to := range metros {
			fmt.Fprintf(&b, " %5.1f", float64(oneWay(m, to))/float64(time.Millisecond))
		}
	}
	return b.String() + "\n"
}
