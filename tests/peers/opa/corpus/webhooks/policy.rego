# Deliveries: known senders, from their networks, to their own path.
package webhooks

default decision := {"allow": false}

decision := {"allow": true, "reasons": [sender]} if {
	sender := input.resource.properties.params.sender
	settings := data.webhooks.senders[sender]
	lower(input.context.host) == settings.host
	input.context.headers["x-event"][0] in settings.events
	some network in settings.networks
	net.cidr_contains(network, input.context.peer.ip)
	net.cidr_is_valid(network)
}
