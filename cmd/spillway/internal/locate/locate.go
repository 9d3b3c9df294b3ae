// Package locate finds the installation that a command speaks to: what the
// environment names, else the `spillway dev` that runs in the data directory.
package locate

import (
	"errors"
	"os"
	"strings"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
)

// The variables of the contract. An address that is set comes before that of a
// running dev.
const (
	EnqueueVariable    = "SPILLWAY_ENQUEUE_ADDRESS"
	SchedulerVariable  = "SPILLWAY_SCHEDULER_ADDRESS" // several, separated by commas
	NotifierVariable   = "SPILLWAY_NOTIFIER_ADDRESS"
	WebsocketVariable  = "SPILLWAY_NOTIFIER_WEBSOCKET" // ws://host:port/v1/ws, or wss://…
	AutomationVariable = "SPILLWAY_AUTOMATION_ADDRESS"
	KafkaVariable      = "SPILLWAY_KAFKA" // and those of connect.Settings beside it
	PrefixVariable     = "SPILLWAY_PREFIX"
	TokenFileVariable  = "SPILLWAY_TOKEN_FILE"
	MACKeyFileVariable = "SPILLWAY_MAC_KEY_FILE"
)

// Find returns where everything is. Without a running dev and without a single
// variable the error wraps readyfile.ErrAbsent. A token file stands for the
// tokens of all roles; a subscriber's is none of them and stays a dev's. Who names the brokers in the environment says there, too,
// how to get in; a dev's own settings then do not count.
func Find(dataDir string) (readyfile.File, error) {
	f, err := readyfile.Running(dataDir)
	if err != nil && !errors.Is(err, readyfile.ErrAbsent) {
		return f, err
	}
	named := false
	set := func(variable string, to *string) {
		if v := os.Getenv(variable); v != "" {
			*to, named = v, true
		}
	}
	var schedulers, tokenFile string
	set(EnqueueVariable, &f.Endpoints.Enqueue)
	set(NotifierVariable, &f.Endpoints.Notifier)
	set(WebsocketVariable, &f.Endpoints.Websocket)
	set(AutomationVariable, &f.Endpoints.Automation)
	set(SchedulerVariable, &schedulers)
	if os.Getenv(KafkaVariable) != "" {
		log, err := connect.Environment()
		if err != nil {
			return f, err
		}
		f.Broker, named = log.Broker(readyfile.Kafka), true
	}
	if err != nil && !named && schedulers == "" {
		return f, err
	}
	set(PrefixVariable, &f.Prefix)
	set(MACKeyFileVariable, &f.MACKeyFile)
	set(TokenFileVariable, &tokenFile)
	if schedulers != "" {
		f.Endpoints.Scheduler = strings.Split(schedulers, ",")
	}
	if f.Prefix == "" {
		f.Prefix = kafka.DefaultPrefix
	}
	if f.Broker.Kind == "" {
		f.Broker.Kind = readyfile.Kafka
	}
	if tokenFile != "" {
		token, err := rpc.ReadTokenFile(tokenFile)
		if err != nil {
			return f, err
		}
		f.Tokens.Operator, f.Tokens.Worker, f.Tokens.Service = token, token, token
	}
	return f, nil
}
