package broker

import (
	"fmt"
	"os"
	"testing"
)

// The test binary is also the members of its tests.
func TestMain(m *testing.M) {
	config, ok := os.LookupEnv(memberEnv)
	if !ok {
		os.Exit(m.Run())
	}
	if err := memberMain(config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
