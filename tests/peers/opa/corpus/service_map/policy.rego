# Which service may call which method. Who is not in the map calls nothing.
package service_map

default decision := {"allow": false, "reasons": ["not on the map"]}

decision := {"allow": true, "reasons": [sprintf("%s calls %s", [caller, input.resource.id])]} if {
	input.subject.type in {"client", "workload"}
	input.action.properties.protocol == "grpc"
	input.resource.id in callable
}

caller := input.subject.properties.client_id

callable contains method if some method in data.service_map.calls[caller].methods

callable contains method if {
	some service in data.service_map.calls[caller].services
	some method in data.service_map.methods[service]
}
