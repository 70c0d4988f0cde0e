package flow

import "context"

// Flow is a running, or not yet running, flow.
type Flow struct{ cfg Config }

// New checks the configuration. It connects to nothing.
func New(cfg Config) (*Flow, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	return &Flow{cfg: cfg}, nil
}

// Run runs the flow until ctx ends or an error is fatal. When it returns nil, everything that was
// read into the lanes has been written or given back, and source and sink are
// closed. Run once.
func (f *Flow) Run(ctx context.Context) error { return nil }

// Status is a snapshot; safe at any time.
func (f *Flow) Status() Status { return Status{Flow: f.cfg.Name} }
