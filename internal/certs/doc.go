// Package certs gives TLS configurations whose files may be replaced while they are
// in use, and makes the certificates of a development cluster.
//
// Between the roles of a cluster both sides show a certificate of the cluster's own
// authority. Who a certificate speaks for stands in it as a DNS name below
// [Domain] ("worker.chorale.internal"), so that it does not matter at which address
// a role is reached: pods and containers come and go.
package certs
