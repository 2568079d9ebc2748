package device

import (
	"errors"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkWatch waits for the interface to be deleted.
type linkWatch struct {
	link    *systemLink
	done    chan struct{}
	running sync.WaitGroup
}

// watchLink calls fail at most once.
func watchLink(l *systemLink, fail func(error)) (*linkWatch, error) {
	w := &linkWatch{link: l, done: make(chan struct{})}
	updates, err := w.subscribe()
	if err != nil {
		return nil, err
	}
	w.running.Go(func() { w.run(updates, fail) })
	return w, nil
}

func (w *linkWatch) subscribe() (<-chan netlink.LinkUpdate, error) {
	updates := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(updates, w.done); err != nil {
		return nil, w.link.failed("watch it", err)
	}
	return updates, nil
}

func (w *linkWatch) run(updates <-chan netlink.LinkUpdate, fail func(error)) {
	index := w.link.link.Attrs().Index
	for {
		_, err := netlink.LinkByIndex(index)
		deleted := errors.As(err, new(netlink.LinkNotFoundError)) // before the updates began
		if deleted {
			fail(gone(w.link.name))
		}
		for u := range updates { // until done; or the library has given up
			if !deleted && u.Header.Type == unix.RTM_DELLINK && int(u.Index) == index {
				deleted = true
				fail(gone(w.link.name))
			}
		}
		select {
		case <-w.done:
			return
		default:
		}
		if deleted {
			return
		}
		// It does where more happens to interfaces than the kernel keeps for us.
		if updates, err = w.subscribe(); err != nil {
			fail(err)
			return
		}
	}
}

func (w *linkWatch) stop() {
	close(w.done)
	w.running.Wait()
}
