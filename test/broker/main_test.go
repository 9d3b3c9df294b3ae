package broker

import (
	"fmt"
	"os"
	"testing"
)

// The test binary is also the processes of its tests.
func TestMain(m *testing.M) {
	for env, run := range map[string]func(string) error{memberEnv: memberMain, brokerEnv: brokerMain} {
		if config, ok := os.LookupEnv(env); ok {
			if err := run(config); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}
