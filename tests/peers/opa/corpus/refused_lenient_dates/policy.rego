# A date with something behind it.
package refused_lenient_dates

default decision := {"allow": false}

decision := {"allow": true, "reasons": ["since"]} if {
	time.parse_ns("2006-01-02", input.context.headers["x-since"][0]) < input.context.time_ns
}
