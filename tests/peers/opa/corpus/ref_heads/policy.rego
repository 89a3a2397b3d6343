# Rules whose names are paths, some with a variable part.
package ref_heads

decision := {"allow": verdicts[input.resource.properties.attributes.area][input.action.name], "reasons": [area_names[input.resource.properties.attributes.area]]}

verdicts.public.GET := true

verdicts.public.POST := input.subject.type == "user"

verdicts.staff[method] := is_staff if some method in ["GET", "POST"]

default is_staff := false

is_staff if "staff" in input.subject.properties.roles

verdicts.vault.GET if {
	"keeper" in input.subject.properties.roles
	input.subject.properties.acr == "phr"
}

area_names[name] := text if some name, text in data.ref_heads.areas

area_names.vault := "the vault"
