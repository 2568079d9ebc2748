package device
import "github.com/rs/zerolog"
func openKernel(cfg Config, log zerolog.Logger, fail func(error)) (tunnel, network, error) { return nil,nil,ErrNoKernel }
func openTUN(cfg Config, log zerolog.Logger, fail func(error)) (tunnel, network, error) { return nil,nil,ErrNoTUN }
