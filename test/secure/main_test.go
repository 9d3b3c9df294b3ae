// Package secure runs the product on Apache Kafka as its users do: `dev` on
// a cluster, and services each with a principal of its own on one that wants
// TLS, logins and rights.
package secure

import (
	"os"
	"testing"

	"github.com/spillway/spillway/test/product"
)

func TestMain(m *testing.M) { os.Exit(product.Main(m)) }
