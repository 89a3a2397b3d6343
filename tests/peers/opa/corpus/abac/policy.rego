# Attributes of subject, resource and circumstances, no roles.
package abac

default decision := {"allow": false}

decision := {"allow": true, "reasons": sort(reasons)} if {
	count(reasons) > 0
	count(objections) == 0
}

reasons contains "public" if input.resource.properties.attributes.classification == "public"

reasons contains "cleared" if {
	rank := data.abac.ranks[input.resource.properties.attributes.classification]
	data.abac.ranks[input.subject.properties.claims.clearance] >= rank
	input.subject.properties.claims.department == input.resource.properties.attributes.department
}

objections contains "not from there" if {
	some region in input.resource.properties.attributes.forbidden_regions
	input.context.attributes.region == region
}

objections contains "device is not managed" if {
	input.resource.properties.attributes.classification == "secret"
	input.context.attributes.managed == false
}
