# The keyword that gives negation the meaning it seems to have, in both engines.
package future_not

import future.keywords.not

default decision := false

decision if {
	not startswith(input.subject.properties.claims.email, "guest-")
	not "frozen" in input.resource.properties.attributes.tags
	not count(input.resource.properties.attributes.tags) > 2
	not data.future_not.flags[input.subject.properties.claims.team]
}
