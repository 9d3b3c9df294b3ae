package rpc

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
)

// InMemory is the network name of addresses that never leave the process;
// rpctest's listeners have it.
const InMemory = "memory"

// isLocal tells whether an address cannot be reached from another machine.
func isLocal(addr net.Addr) bool {
	switch a := addr.(type) {
	case nil:
		return false
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	default:
		return a.Network() == InMemory
	}
}

// checkListener is the rule that plaintext is spoken on this machine only.
func checkListener(l net.Listener) error {
	if !isLocal(l.Addr()) {
		return fmt.Errorf("listener %s: plaintext is served on loopback addresses and Unix sockets only", l.Addr())
	}
	return nil
}

// localCredentials is plaintext that refuses to speak to another machine, on
// either side and for each connection: so a token cannot leave by a name that
// resolves elsewhere.
type localCredentials struct{}

type localInfo struct{ credentials.CommonAuthInfo }

func (localInfo) AuthType() string                       { return "local" }
func (localInfo) ValidateAuthority(string) error         { return nil }
func (localCredentials) OverrideServerName(string) error { return nil }

func (localCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "local"}
}

func (c localCredentials) Clone() credentials.TransportCredentials { return c }

func (localCredentials) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return localHandshake(conn, conn.RemoteAddr())
}

func (localCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	// A Unix peer has no name of its own, so its socket's is looked at.
	return localHandshake(conn, conn.LocalAddr())
}

func localHandshake(conn net.Conn, addr net.Addr) (net.Conn, credentials.AuthInfo, error) {
	if !isLocal(addr) {
		return nil, nil, fmt.Errorf("plaintext to %s is refused: not an address of this machine", addr)
	}
	return conn, localInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
}
