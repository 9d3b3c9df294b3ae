package failover

import (
	"flag"
	"os"
	"testing"

	"github.com/spillway/spillway/test/product"
)

// seed draws what the load does; the log of a run names it.
var seed = flag.Uint64("seed", 1, "seed of the load")

// defaults adds brokers at Kafka's own session timeout of 9 s, for which nothing is promised but that all comes back.
var defaults = flag.Bool("defaults", false, "also brokers at Kafka's default session timeout")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(product.Main(m))
}
