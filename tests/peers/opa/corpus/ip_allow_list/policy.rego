# Networks of each client as data; the address is that of the connection.
package ip_allow_list

default decision := {"allow": false}

decision := {"allow": true, "reasons": [network]} if {
	some network in sort(matching)
	network == sort(matching)[0]
}

matching contains network if {
	some network in data.ip_allow_list.networks[input.subject.properties.client_id]
	net.cidr_contains(network, input.context.peer.ip)
	not blocked
}

blocked if {
	some network in data.ip_allow_list.never
	net.cidr_contains(network, input.context.peer.ip)
}
