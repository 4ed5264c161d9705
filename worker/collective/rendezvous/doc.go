// Package rendezvous brings the ranks of a group together: the leader, rank 0,
// listens; the others join with who they are and what they run; and when all are
// there, each gets what it needs to build the group, or everybody learns why
// there is none.
//
//	follower                              leader
//	hello: rank, size, nonce, digest  →   checks; waits for the others
//	       its own address            ←   welcome: all addresses, a message,
//	                                      on one machine a file descriptor
//	                                  or  refusal: which rule, in a sentence
//
// The connections stay open as long as the group: the kernel closes them when a
// process ends, however it ends, so each side knows at once (Watch).
//
// The nonce keeps sessions apart; it is no protection against attackers who can
// read the network. A unix socket also takes only processes of the same user.
package rendezvous
