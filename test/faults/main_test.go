// Package faults kills the product's real processes under load and checks, from
// the generator's own account and from the logs, that nothing was lost. It acts
// on loopback, kills only what it started and bounds every wait.
package faults

import (
	"os"
	"testing"

	"github.com/spillway/spillway/test/product"
)

func TestMain(m *testing.M) { os.Exit(product.Main(m)) }
