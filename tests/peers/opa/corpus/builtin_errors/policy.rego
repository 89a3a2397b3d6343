# Functions that refuse their arguments: an error, not undefined, in both.
package builtin_errors

default decision := false

decision if to_number(input.context.headers["x-level"][0]) > 3

decision if {
	input.action.name == "GET"
	time.parse_rfc3339_ns(input.context.headers["x-since"][0]) < input.context.time_ns
}
