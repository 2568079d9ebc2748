package node

import (
	"bufio"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// bound is one client's backend, as one generation writes it for the next.
type bound struct {
	App     string
	Client  netip.Addr
	Backend string
	Last    int64 // unix ns of the client's last connection
}

// writeBindings writes them to a file beside the database, which nobody else
// finds.
func writeBindings(db string, a *route.Affinity) (f *os.File, err error) {
	if f, err = os.CreateTemp(filepath.Dir(db), filepath.Base(db)+".bindings.*"); err != nil {
		return nil, err
	}
	err = os.Remove(f.Name())
	buf := bufio.NewWriterSize(f, 64<<10)
	enc := gob.NewEncoder(buf)
	a.Each(func(k route.Key, backend string, last time.Time) {
		if err == nil {
			err = enc.Encode(bound{k.App, k.Client, backend, last.UnixNano()})
		}
	})
	if err == nil {
		err = buf.Flush()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("pass the bindings on: %w", err)
	}
	return f, nil
}

// readBindings takes what the generation before has written, and closes the file.
func readBindings(f *os.File, a *route.Affinity) error {
	defer f.Close()
	// From its beginning, wherever another process that did not take over has read to.
	dec := gob.NewDecoder(bufio.NewReaderSize(io.NewSectionReader(f, 0, math.MaxInt64), 64<<10))
	for {
		var b bound
		switch err := dec.Decode(&b); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("inherited bindings: %w", err)
		}
		a.Put(route.Key{App: b.App, Client: b.Client}, b.Backend, time.Unix(0, b.Last))
	}
}
