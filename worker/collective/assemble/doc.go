// Package assemble makes a group out of processes: the rendezvous, then the
// transport that fits. At a unix socket all ranks are on one machine and share
// memory; at any other address they use TCP.
//
//	leader                                     follower
//	l, err := rendezvous.Listen(address)
//	// start the followers with l.Address()
//	team, err := assemble.Lead(ctx, l, c)      team, err := assemble.Follow(ctx, address, c)
//	l.Close()
package assemble
