package config

import (
	"fmt"
	"runtime"

	"github.com/penstockdev/penstock/flow"
)

// Setup is what the engine would tell the sink of cfg when it opens it, for those who look
// at a sink without running the flow. log is the source's; nil where it could not be
// reached, and Setup then knows no cluster.
func Setup(cfg flow.Config, log *flow.Log) (flow.Setup, error) {
	s := flow.Setup{Flow: cfg.Name, Lanes: cfg.Lanes}
	partitions := 1
	if log != nil {
		s.ClusterID, s.Source = log.ClusterID, log.Name
		partitions = max(1, len(log.Partitions))
	}
	if s.Lanes == 0 {
		s.Lanes = min(partitions, runtime.GOMAXPROCS(0))
	}
	if m, ok := cfg.Source.(flow.GroupMember); ok {
		s.Member = m.Member
	}
	var err error
	if len(cfg.Routes) == 0 {
		s.Fields, err = columns(cfg.Transforms)
		return s, err
	}
	for _, r := range cfg.Routes {
		fields, err := columns(r.Transforms)
		if err != nil {
			return s, fmt.Errorf("route %s: %w", r.Name, err)
		}
		s.Routes = append(s.Routes, fields)
	}
	return s, nil
}

// columns are those that the last of the transforms makes which makes any; nil where
// nothing decodes.
func columns(transforms func(lane int) ([]flow.Transform, error)) (fields []flow.Field, err error) {
	if transforms == nil {
		return nil, nil
	}
	all, err := transforms(0)
	for _, t := range all {
		if s, ok := t.(flow.Schemer); ok {
			fields = s.Fields()
		}
	}
	return fields, err
}
