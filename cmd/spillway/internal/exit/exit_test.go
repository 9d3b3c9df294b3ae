package exit

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
)

// The table of the contract.
func TestCode(t *testing.T) {
	for err, want := range map[error]int{
		nil:                                       0,
		errors.New("x"):                           1,
		Errorf(Usage, "x"):                        2,
		fmt.Errorf("y: %w", Errorf(3, "x")):       3,
		With(Failed, readyfile.ErrAbsent):         1,
		readyfile.ErrAbsent:                       6,
		grpc(codes.InvalidArgument):               2,
		grpc(codes.NotFound):                      3,
		grpc(codes.PermissionDenied):              4,
		grpc(codes.Unauthenticated):               4,
		grpc(codes.ResourceExhausted):             4,
		grpc(codes.FailedPrecondition):            5,
		grpc(codes.Aborted):                       5,
		grpc(codes.AlreadyExists):                 5,
		grpc(codes.Unavailable):                   6,
		grpc(codes.DeadlineExceeded):              6,
		grpc(codes.Internal):                      1,
		fmt.Errorf("z: %w", grpc(codes.NotFound)): 3,
	} {
		if got := Code(err); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
	if With(3, nil) != nil {
		t.Error("no error became one")
	}
}

func grpc(c codes.Code) error { return status.Error(c, c.String()) }
