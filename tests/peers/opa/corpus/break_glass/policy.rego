# In an emergency more is allowed, to those on duty, with a ticket, and somebody is told.
package break_glass

default decision := {"allow": false}

decision := {"allow": true, "reasons": ["treats the patient"]} if treats

decision := {
	"allow": true,
	"reasons": ["emergency"],
	"obligations": [
		{"id": "tell", "whom": "privacy-office", "ticket": ticket},
		{"id": "limit", "minutes": 30, "fields": ["history", "allergies"]},
	],
} if {
	not treats
	data.break_glass.on_duty[input.subject.id]
	regex.match(`^EM-[0-9]{4}$`, ticket)
}

ticket := input.context.headers["x-emergency"][0]

treats if input.subject.id in data.break_glass.patients[input.resource.properties.params.patient]
