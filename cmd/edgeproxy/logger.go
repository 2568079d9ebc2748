package main

import (
	"io"
	"time"

	"github.com/rs/zerolog"
)

// newLogger writes lines for people on a terminal and JSON elsewhere, unless
// the format says otherwise.
func (c *cli) newLogger(w io.Writer, format string) zerolog.Logger {
	// zerolog knows these only per process, which this package is.
	zerolog.ErrorFieldName = "err"
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
	if format == "console" || format == "auto" && isTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !c.coloured(w)}
	}
	return zerolog.New(w).With().Timestamp().Logger()
}

// setLevel takes a level that package config let pass. It is the process's and
// not the logger's, because loggers are values: a copy could not be changed
// any more by a reload.
func setLevel(level string) {
	if l, err := zerolog.ParseLevel(level); err == nil {
		zerolog.SetGlobalLevel(l)
	}
}
