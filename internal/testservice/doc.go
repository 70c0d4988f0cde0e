// Package testservice gives tests the addresses of real services, and servers
// of their own that they may kill. `make test` starts the services; a test
// whose service is not there fails and says how to start it.
//
// Nothing but tests imports this package.
package testservice
