# Packages, services and methods by the parts of a full method name.
package grpc_methods

default decision := {"allow": false}

decision := {"allow": true, "reasons": [service]} if {
	input.resource.type == "grpc_method"
	startswith(method, "Get")
	readable[service]
}

decision := {"allow": true, "reasons": [sprintf("%s of %s", [method, service])]} if {
	input.resource.type == "grpc_method"
	not getter
	method in data.grpc_methods.writers[input.subject.properties.client_id][service]
}

getter if startswith(method, "Get")

service := split(input.resource.id, "/")[0]

method := split(input.resource.id, "/")[1]

readable[name] if {
	some name, rule in data.grpc_methods.readers
	some role in input.subject.properties.roles
	role in rule
}
