package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/penstockdev/penstock/internal/position"
)

func (s *Server) positions(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("flow")
	ctx, cancel := context.WithTimeout(r.Context(), answerWithin-time.Second)
	defer cancel()
	ps, err := s.flows.Positions(ctx, name)
	if err != nil {
		fail(w, "positions of flow "+name, err)
		return
	}
	writeJSON(w, "application/json", http.StatusOK, PositionsOf(name, ps))
}

func (s *Server) setPositions(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("flow")
	what := "positions of flow " + name
	var ask PositionRequest
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&ask); err != nil {
		fail(w, what, &badRequest{fmt.Errorf(`the body is not like {"to": "-2h", "apply": false}: %w`, err)})
		return
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		fail(w, what, &badRequest{errors.New(`the body goes on after its object: want one like {"to": "-2h", "apply": false}`)})
		return
	}
	target, err := position.ParseTarget(ask.To)
	if err != nil {
		fail(w, what, &badRequest{err})
		return
	}
	extend(w)
	ctx, cancel := context.WithTimeout(r.Context(), actWithin)
	defer cancel()
	plan, err := s.flows.SetPositions(ctx, name, target, ask.Apply)
	if err != nil {
		fail(w, what, err)
		return
	}
	if ask.Apply {
		s.log.InfoContext(ctx, "a person has set the positions of a flow", slog.String("flow", name), slog.String("to", ask.To), slog.String("remote", r.RemoteAddr))
	}
	writeJSON(w, "application/json", http.StatusOK, PlanOf(plan, ask.Apply))
}

// PositionsOf shows positions as the API does.
func PositionsOf(flowName string, ps []position.Position) *PositionList {
	list := &PositionList{Flow: flowName, Positions: make([]Position, len(ps))}
	for i := range ps {
		p := &ps[i]
		list.Positions[i] = Position{
			Topic: p.Topic, Partition: p.ID, Offset: known(p.Offset), Begin: known(p.Begin), End: known(p.End), LagRecords: p.Lag(), Note: p.Note,
		}
	}
	return list
}

// PlanOf shows a plan as the API does.
func PlanOf(p *position.Plan, applied bool) *Plan {
	plan := &Plan{
		Flow: p.Flow, Applied: applied, Moves: make([]Move, len(p.Moves)), Again: p.Again, Skipped: p.Skipped, Consequence: p.Consequence,
		Members: p.Members,
	}
	if plan.Members == nil {
		plan.Members = []string{}
	}
	for i := range p.Moves {
		m := &p.Moves[i]
		plan.Moves[i] = Move{
			Topic: m.Topic, Partition: m.ID, From: known(m.From), To: m.To, Begin: m.Begin, End: m.End, Again: m.Again, Skipped: m.Skipped, Consequence: m.Consequence,
		}
	}
	return plan
}

// known is null for -1.
func known(offset int64) *int64 {
	if offset < 0 {
		return nil
	}
	return &offset
}
