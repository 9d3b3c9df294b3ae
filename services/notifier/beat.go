package notifier

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/lifecycle"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// acknowledge writes beats, one at once for each control state: whoever threw a switch waits for it.
func (s *Service) acknowledge(ctx context.Context) error {
	select {
	case <-s.control.Folded():
	case <-ctx.Done():
		return nil
	}
	group := lifecycle.NewGroup(ctx)
	group.Go("beat", s.writer.Run)
	group.Go("poke", func(ctx context.Context) error {
		for {
			changed := s.control.Changed()
			s.writer.Poke()
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return group.Wait()
}

// beat is what status says of this replica.
func (s *Service) beat() *logv1.Status {
	sequence, hash := s.room.Sequence()
	value := s.room.Pressure()
	level := logv1.PressureLevel_PRESSURE_LEVEL_NORMAL
	switch {
	case value >= 0.8:
		level = logv1.PressureLevel_PRESSURE_LEVEL_SEVERE
	case value >= 0.5:
		level = logv1.PressureLevel_PRESSURE_LEVEL_ELEVATED
	}
	return &logv1.Status{
		Replica: s.id, Kind: logv1.ReplicaKind_REPLICA_KIND_NOTIFIER, Address: s.cfg.Address, AppliedSequence: sequence, StateHash: hash,
		At: timestamppb.Now(), Pressure: &logv1.Pressure{Value: value, Level: level},
	}
}
