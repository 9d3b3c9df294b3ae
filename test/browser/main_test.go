package browser

import (
	"os"
	"testing"

	"github.com/spillway/spillway/test/product"
)

func TestMain(m *testing.M) { os.Exit(product.Main(m)) }
