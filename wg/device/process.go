package device

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.zx2c4.com/wireguard/conn"
	wireguard "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/edgeproxy/edgeproxy/wg"
)

// process is wireguard-go in this process.
type process struct {
	dev    *wireguard.Device
	socket *socket // for wg(8); nil: none
	watch  sync.WaitGroup
}

// startProcess runs WireGuard on nic, which it closes also if it fails.
func startProcess(cfg Config, nic tun.Device, log zerolog.Logger, fail func(error)) (*process, error) {
	p := &process{dev: wireguard.NewDevice(nic, conn.NewDefaultBind(), libraryLog(log))}
	order := encodeKey(cfg.PrivateKey) + fmt.Sprintf("listen_port=%d\n", cfg.Port)
	if err := p.dev.IpcSet(order); err != nil {
		p.dev.Close()
		return nil, fmt.Errorf("configure WireGuard: %w", err)
	}
	if err := p.dev.Up(); err != nil {
		p.dev.Close()
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, portTaken(cfg.Port)
		}
		return nil, fmt.Errorf("listen on UDP port %d: %w", cfg.Port, err)
	}
	if cfg.Interface != "" {
		var err error
		if p.socket, err = openSocket(socketDir, cfg.Interface, p.dev.IpcHandle); err != nil {
			log.Debug().Err(err).Msg("no socket for the wg command")
		}
	}
	p.watch.Go(func() {
		<-p.dev.Wait() // closed by us, or by itself when it cannot read
		fail(gone(cfg.Interface))
	})
	return p, nil
}

func (p *process) configure(changes []wg.Change) error {
	if p.dev.IpcSet(encodeChanges(changes)) == nil {
		return nil
	}
	// It ends at the first that it does not take. The others are no worse for it.
	var errs []error
	for i := range changes {
		if err := p.dev.IpcSet(encodeChanges(changes[i : i+1])); err != nil {
			errs = append(errs, fmt.Errorf("configure WireGuard peer %s: %w", changes[i].Name, err))
		}
	}
	return errors.Join(errs...)
}

func (p *process) setKey(key [32]byte) error {
	if err := p.dev.IpcSet(encodeKey(key)); err != nil {
		return fmt.Errorf("set WireGuard private key: %w", err)
	}
	return nil
}

func (p *process) status() (deviceStatus, error) {
	text, err := p.dev.IpcGet()
	if err != nil {
		return deviceStatus{}, fmt.Errorf("ask WireGuard: %w", err)
	}
	return parseStatus(text)
}

func (p *process) close() error {
	var err error
	if p.socket != nil {
		err = p.socket.close()
	}
	p.dev.Close()
	p.watch.Wait()
	return err
}

// libraryLog turns what wireguard-go says into ours.
func libraryLog(log zerolog.Logger) *wireguard.Logger {
	say := func(event func() *zerolog.Event) func(string, ...any) {
		return func(format string, args ...any) {
			if e := event(); e.Enabled() {
				e.Str("text", fmt.Sprintf(format, args...)).Msg("wireguard library")
			}
		}
	}
	// What it calls an error heals by itself, or Configure and the like return it.
	// It is said every few seconds for each peer.
	few := log.Sample(&zerolog.BurstSampler{Burst: 5, Period: time.Minute})
	warn := func(format string, args ...any) {
		event := few.Warn
		if len(args) > 0 && fmt.Sprint(args[len(args)-1]) == "no known endpoint for peer" {
			event = log.Debug // it comes by itself, and has not yet
		}
		say(event)(format, args...)
	}
	return &wireguard.Logger{Verbosef: say(log.Debug), Errorf: warn}
}
