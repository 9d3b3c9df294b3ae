package notifier

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/status"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// beat is what status says of this replica.
func (s *Service) beat() *logv1.Status {
	sequence, hash := s.room.Sequence()
	return &logv1.Status{
		Replica: s.id, Kind: logv1.ReplicaKind_REPLICA_KIND_NOTIFIER, Address: s.cfg.Address, AppliedSequence: sequence, StateHash: hash,
		At: timestamppb.Now(), Pressure: status.Pressure(s.room.Pressure()),
	}
}
