// Package replay runs `spillway replay` at a fraction of its length, to see that
// both stages work from end to end and that their reports are what the contract
// says. What a full run finds is in docs/guides/replay.md; isolation is measured
// by bench, on a machine that does nothing else.
package replay

import (
	"os"
	"testing"

	"github.com/spillway/spillway/test/product"
)

func TestMain(m *testing.M) { os.Exit(product.Main(m)) }
