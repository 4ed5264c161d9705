// Package testkit starts Chorale's roles as processes and makes adapters for
// them: whole ones that change the model's answers visibly, and broken ones of
// every kind. Tests of the system as a whole live on it.
package testkit
