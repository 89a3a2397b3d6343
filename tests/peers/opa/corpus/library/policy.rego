# Rules in two packages, and one that only helps.
package library

import data.library.common
import data.library.common.grants as granted

default decision := {"allow": false}

decision := {"allow": true, "reasons": [common.greeting(input.subject.id)]} if {
	common.reading
	granted.read
}

decision := {"allow": true, "reasons": ["writes"]} if {
	not common.reading
	granted[data.library.verbs[input.action.name]]
}
