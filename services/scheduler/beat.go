package scheduler

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// runBeats writes beats once there is a control state to speak of.
func (s *Service) runBeats(ctx context.Context) error {
	select {
	case <-s.control.Folded():
		return s.beats.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// beat is what status says of this replica.
func (s *Service) beat() *logv1.Status {
	state, now := s.control.State(), time.Now()
	ids, _ := s.owner.Shards()
	m := &logv1.Status{
		Replica: s.id, Kind: logv1.ReplicaKind_REPLICA_KIND_SCHEDULER, Address: s.cfg.Address, At: timestamppb.New(now),
		AppliedSequence: s.loop.Acknowledged(), Shards: ids,
		Pressure: &logv1.Pressure{Level: logv1.PressureLevel_PRESSURE_LEVEL_NORMAL},
	}
	if state == nil {
		return m
	}
	if state.Sequence() == m.AppliedSequence {
		m.StateHash = state.Hash()
	}
	held := inForce(state, now)
	var marks []core.Mark
	s.loop.Do(func(_ time.Time, e *core.Engine) {
		marks = slices.Clone(e.Spilling())
		s.talkers.look(now, func(to []core.Talk) []core.Talk { return e.Talks(now, to) })
		for _, scope := range held {
			m.HeldRunning += int64(e.Running(scope))
		}
	})
	m.Top = s.talkers.top()
	for _, k := range marks {
		if lane, has := s.owner.LaneOf(k.Shard, k.Source, k.Type); has {
			m.Marks = append(m.Marks, mark(k, lane))
		} else if s.owner.Exhausted(k.Shard) {
			m.Marks = append(m.Marks, mark(k, -1))
		}
	}
	return m
}

// Summarise writes a summary beat. See dispatch.Beat.
func (s *Service) Summarise(list []core.Summary) {
	s.beats.Summarise(&logv1.Status{Replica: s.id, Summaries: summaries(list)})
}

// Poke writes a status beat at once. See dispatch.Beat.
func (s *Service) Poke() { s.beats.Poke() }
