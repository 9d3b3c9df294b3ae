package core

// Code is why a session was ended, as its websocket close frame and its go say. The range tells the client what to do:
//
//	4000–4099  come back, after the time that go has named or else after a random part of a delay that doubles
//	4100–4199  get a new token first, then come back
//	4200–4299  do not come back: the same would happen again
type Code int

// Come back in your slot.
const (
	// CloseDraining: the replica stops. Another one has everything.
	CloseDraining Code = 4000
	// CloseSlow: the client took no byte for the stall time although something waited for it.
	CloseSlow Code = 4001
	// CloseSilent: the client answered no ping, although it had taken everything that there was for it.
	CloseSilent Code = 4002
	// CloseFull: the user, or the replica, has as many sessions as it may have.
	CloseFull Code = 4003
	// CloseUnready: the replica cannot judge tokens or read the log at the moment.
	CloseUnready Code = 4004
	// CloseLate: no hello came in time.
	CloseLate Code = 4005
)

// Refresh the token, then come back.
const (
	// CloseExpired: the token has expired and no refresh came.
	CloseExpired Code = 4100
	// CloseToken: the token is not acceptable, or a refresh was that of another user or tenant.
	CloseToken Code = 4101
)

// Do not come back.
const (
	// CloseProtocol: the client does not speak spillway.v1: its first message was no hello. After the hello nothing ends a session so: what is not
	// understood, a second hello among it, is answered by an error.
	CloseProtocol Code = 4200
	// CloseFlood: the client went on and on over its limit of messages, without a rest.
	CloseFlood Code = 4201
)

// Reason is the text of a code for people, at most 123 bytes; programs go by the code.
func (c Code) Reason() string {
	switch c {
	case CloseDraining:
		return "the replica stops: come back"
	case CloseSlow:
		return "nothing was taken for too long: come back with the cursor"
	case CloseSilent:
		return "no pong: come back with the cursor"
	case CloseFull:
		return "too many sessions: come back later"
	case CloseUnready:
		return "not ready: come back later"
	case CloseLate:
		return "no hello in time: come back"
	case CloseExpired:
		return "the token has expired: refresh it and come back"
	case CloseToken:
		return "the token was refused: get another one and come back"
	case CloseProtocol:
		return "this is not spillway.v1"
	case CloseFlood:
		return "too many messages"
	}
	return ""
}

// Returns tells whether a client that was closed so should come back.
func (c Code) Returns() bool { return c >= 4000 && c < 4200 }
