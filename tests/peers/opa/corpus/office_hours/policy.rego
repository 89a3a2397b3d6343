# Monday to Friday, nine to five, in the time of the office, and never on a holiday.
package office_hours

default decision := {"allow": false, "reasons": ["closed"]}

decision := {"allow": true, "reasons": [day]} if {
	day in {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday"}
	hour >= 9
	hour < 17
	not holiday
}

decision := {"allow": true, "reasons": ["guard"]} if {
	"guard" in input.subject.properties.roles
	hour >= 17
}

office := object.get(data.office_hours.zones, object.get(input.context.attributes, "office", "UTC"), "UTC")

day := time.weekday([input.context.time_ns, office])

hour := time.clock([input.context.time_ns, office])[0]

holiday if {
	date := time.date([input.context.time_ns, office])
	data.office_hours.holidays[sprintf("%04d-%02d-%02d", date)]
}
