package device

import (
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkWatch waits for the interface to be deleted.
type linkWatch struct {
	done    chan struct{}
	running sync.WaitGroup
}

func watchLink(l *systemLink, fail func(error)) (*linkWatch, error) {
	w := &linkWatch{done: make(chan struct{})}
	updates := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(updates, w.done); err != nil {
		return nil, l.failed("watch it", err)
	}
	w.running.Go(func() {
		failed := false
		for u := range updates { // until done; or the library has given up
			if !failed && u.Header.Type == unix.RTM_DELLINK && int(u.Index) == l.link.Attrs().Index {
				failed = true
				fail(gone(l.name))
			}
		}
	})
	return w, nil
}

func (w *linkWatch) stop() {
	close(w.done)
	w.running.Wait()
}
