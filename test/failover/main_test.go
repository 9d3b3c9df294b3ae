package failover

import (
	"flag"
	"os"
	"testing"

	"github.com/spillway/spillway/test/product"
)

// seed draws what the load does; the log of a run names it.
var seed = flag.Uint64("seed", 1, "seed of the load")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(product.Main(m))
}
