package agent

import (
	"context"
	"errors"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// pops are the POPs that an agent may ask, one of which it does. It is not safe
// for concurrent use.
type pops struct {
	list    []*api.Client
	failed  []time.Time // when each last did not answer
	current int
}

func dial(addrs []string, token string) (p pops, err error) {
	if len(addrs) == 0 {
		return p, errors.New("name a POP to register with")
	}
	for _, addr := range addrs {
		c, err := api.Dial(addr, token)
		if err != nil {
			return p, err
		}
		p.list, p.failed = append(p.list, c), append(p.failed, time.Time{})
	}
	return p, nil
}

func (p *pops) close() {
	for _, c := range p.list {
		c.Close()
	}
}

// ask has do ask POPs until one answers, whatever it says: the one asked last
// first, unless one that is preferred has had time to come back.
func (p *pops) ask(ctx context.Context, patience time.Duration, do func(context.Context, *api.Client) error) (err error) {
	for i := range p.current {
		if time.Since(p.failed[i]) > returnAfter {
			p.current = i
			break
		}
	}
	for range p.list {
		i := p.current
		one, cancel := context.WithTimeout(ctx, patience)
		err = do(one, p.list[i])
		timedOut := one.Err() != nil
		cancel()
		if err == nil || !timedOut && answered(err) || ctx.Err() != nil {
			return err
		}
		p.failed[i], p.current = time.Now(), (i+1)%len(p.list)
	}
	return err
}

// answered says that the POP means it: another would say the same.
func answered(err error) bool {
	return final(err) || errors.Is(err, api.ErrNotFound)
}
