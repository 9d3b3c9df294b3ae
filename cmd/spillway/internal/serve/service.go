package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/rights"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/pkg/telemetry/export"
	"github.com/spillway/spillway/services/automation"
	"github.com/spillway/spillway/services/enqueue"
	"github.com/spillway/spillway/services/notifier"
	"github.com/spillway/spillway/services/scheduler"
)

// settings are what every service is told beside its own configuration.
type settings struct {
	connect.Settings
	Prefix      string `env:"SPILLWAY_PREFIX" default:"spillway." doc:"prefix of the topics"`
	Listen      string `env:"SPILLWAY_LISTEN" default:"127.0.0.1:0" doc:"host:port or unix:PATH of the gRPC listener"`
	AdminListen string `env:"SPILLWAY_ADMIN_LISTEN" doc:"host:port or unix:PATH of the listener for probes and metrics; empty: none"`
	TokenKeys   string `env:"SPILLWAY_TOKEN_KEYS" doc:"JWKS file that tokens are verified with"`
	MACKeyFile  string `env:"SPILLWAY_MAC_KEY_FILE" doc:"file with the key of control and outcomes records"`
	Replica     string `env:"SPILLWAY_REPLICA" doc:"name of this replica, kept over restarts"`
	Metrics     bool   `env:"SPILLWAY_METRICS" default:"false" doc:"serve Prometheus metrics on the admin listener"`
	JoinTraces  bool   `env:"SPILLWAY_TRACE_JOIN" default:"false" doc:"calls go on in their callers' traces instead of being linked to them: only where all callers are trusted, who then decide what is sampled"`
	// Durability is what services that check topics declare; the others know the setting, so that all can share one environment.
	Durability string     `env:"SPILLWAY_DURABILITY" default:"replicated" doc:"replicated (RF 3, min ISR 2) or single: weaker topics are refused"`
	LogLevel   slog.Level `env:"SPILLWAY_LOG_LEVEL" default:"INFO" doc:"DEBUG, INFO, WARN or ERROR"`
}

// webSettings are what a service is told beside these that takes websockets.
type webSettings struct {
	Listen string `env:"SPILLWAY_NOTIFIER_LISTEN" default:"127.0.0.1:0" doc:"host:port or unix:PATH of the listener for websockets, in plaintext: TLS is terminated before it"`
}

func (s settings) validate() error {
	wrong := []error{s.Settings.Validate()}
	for name, value := range map[string]string{"SPILLWAY_TOKEN_KEYS": s.TokenKeys, "SPILLWAY_MAC_KEY_FILE": s.MACKeyFile} {
		if value == "" {
			wrong = append(wrong, fmt.Errorf("%s is not set", name))
		}
	}
	return errors.Join(wrong...)
}

// parts are what a service is built from; each service takes them as its Deps.
type parts struct {
	log             *slog.Logger
	telemetry       *telemetry.Telemetry
	kafka           func(clientID string) (*kafka.Client, error)
	verifier        func(issuer func() string) (*rpc.Verifier, error)
	macKey          []byte
	listener, admin net.Listener
	web             net.Listener // nil for services that take no websockets
}

// runner is a service that was built.
type runner interface {
	Run(ctx context.Context) error
}

// service is one row of the table of what can be served.
type service struct {
	name, short string
	// config returns a pointer to a new configuration.
	config func() any
	// web is for services that take websockets, on a listener of their own.
	web bool
	// seldom is for services whose collector runs seldom.
	seldom bool
	// build makes the service of that configuration.
	build func(cfg any, p parts) (runner, error)
}

var services = []service{
	{
		name: "automation", short: "registers sources, throws switches and proves them",
		config: func() any { return new(automation.Config) },
		build: func(cfg any, p parts) (runner, error) {
			return automation.New(*cfg.(*automation.Config), automation.Deps{
				Log: p.log, Telemetry: p.telemetry, Kafka: p.kafka, Verifier: p.verifier, MACKey: p.macKey, Listener: p.listener, Admin: p.admin,
			})
		},
	},
	{
		name: "enqueue", short: "accepts jobs and makes them durable",
		config: func() any { return new(enqueue.Config) },
		build: func(cfg any, p parts) (runner, error) {
			return enqueue.New(*cfg.(*enqueue.Config), enqueue.Deps{
				Log: p.log, Telemetry: p.telemetry, Kafka: p.kafka, Verifier: p.verifier, MACKey: p.macKey, Listener: p.listener, Admin: p.admin,
			})
		},
	},
	{
		name: "notifier", short: "brings notifications to websockets", web: true, seldom: true,
		config: func() any { return new(notifier.Config) },
		build: func(cfg any, p parts) (runner, error) {
			c := *cfg.(*notifier.Config)
			c.Sessions = fitting(c.Sessions, p.log)
			return notifier.New(c, notifier.Deps{
				Log: p.log, Telemetry: p.telemetry, Kafka: p.kafka, Verifier: p.verifier, MACKey: p.macKey, Listener: p.listener, Admin: p.admin, Web: p.web,
			})
		},
	},
	{
		name: "scheduler", short: "decides what runs next and hands it to workers",
		config: func() any { return new(scheduler.Config) },
		build: func(cfg any, p parts) (runner, error) {
			return scheduler.New(*cfg.(*scheduler.Config), scheduler.Deps{
				Log: p.log, Telemetry: p.telemetry, Kafka: p.kafka, Verifier: p.verifier, MACKey: p.macKey, Listener: p.listener, Admin: p.admin,
			})
		},
	},
}

// flushTimeout bounds what telemetry may take to send its last data.
const flushTimeout = 3 * time.Second

func (s service) command() *cobra.Command {
	var untilStdin bool
	cmd := &cobra.Command{
		Use: s.name, Short: s.short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.seldom {
				collectSeldom()
			}
			ctx, stop := until(cmd.Context(), untilStdin)
			defer stop()
			return s.serve(ctx)
		},
	}
	cmd.Flags().BoolVar(&untilStdin, untilStdinFlag, false, "stop when standard input ends")
	return cmd
}

// serve runs the service until ctx ends. What is wrong with the configuration
// is a usage error, so that a supervisor need not try again.
func (s service) serve(ctx context.Context) (err error) {
	var common settings
	var web webSettings
	cfg := s.config()
	known := []any{&common, cfg}
	if s.web {
		known = append(known, &web)
	}
	if err := errors.Join(config.Load(os.Environ(), known...), common.validate()); err != nil {
		return exit.With(exit.Usage, err)
	}
	macKey, err := config.ReadMACKey(common.MACKeyFile)
	if err != nil {
		return exit.With(exit.Usage, fmt.Errorf("MAC key: %w", err))
	}
	opener, err := common.Opener()
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	p := parts{
		macKey: macKey,
		kafka: func(clientID string) (*kafka.Client, error) {
			return opener.Client(clientID, rights.Topics(rights.Role(s.name), kafka.Topics{Prefix: common.Prefix})...)
		},
		verifier: func(issuer func() string) (*rpc.Verifier, error) {
			return rpc.NewVerifier(common.TokenKeys, issuer, time.Now())
		},
	}
	telemetrySettings := []export.Setting{export.Replica(common.Replica)}
	if common.Metrics {
		telemetrySettings = append(telemetrySettings, export.Prometheus())
	}
	if common.JoinTraces {
		telemetrySettings = append(telemetrySettings, export.JoinCallers())
	}
	if p.telemetry, err = export.Setup(ctx, "spillway-"+s.name, telemetrySettings...); err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	p.log = slog.New(p.telemetry.LogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: common.LogLevel})))
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		err = errors.Join(err, p.telemetry.Shutdown(flush))
	}()
	if p.listener, err = listen(common.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer p.listener.Close() // closed already once it has served
	if common.AdminListen != "" {
		if p.admin, err = listen(common.AdminListen); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		defer p.admin.Close()
	}
	if s.web {
		if p.web, err = listen(web.Listen); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		defer p.web.Close()
	}
	built, err := s.build(cfg, p)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	return built.Run(ctx)
}
