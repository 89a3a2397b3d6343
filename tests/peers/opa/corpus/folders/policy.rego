# Relations: who may read a folder may read what is in it.
package folders

default decision := {"allow": false}

decision := {"allow": true, "reasons": [sort(through)[0]]} if count(through) > 0

ancestors := graph.reachable(data.folders.parents, {input.resource.properties.params.doc})

through contains sprintf("%s of %s", [relation, folder]) if {
	some folder in ancestors
	some relation, subjects in data.folders.relations[folder]
	relation in data.folders.methods[input.action.name]
	some subject in subjects
	belongs(subject)
}

belongs(subject) if subject == sprintf("user:%s", [input.subject.id])

belongs(subject) if {
	[kind, name] := split(subject, ":")
	kind == "group"
	input.subject.id in data.folders.groups[name]
}
