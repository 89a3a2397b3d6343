# A route is open to those whom a flag names: everybody, a share, tenants, or testers.
package feature_flags

import data.feature_flags.flags

default decision := false

decision if {
	flag := flags[input.resource.properties.attributes.flag]
	enabled(flag)
}

decision if not input.resource.properties.attributes.flag

enabled(flag) if flag.on == true

enabled(flag) if input.subject.properties.tenant in flag.tenants

enabled(flag) if {
	input.subject.id in flag.testers
	object.get(flag, "testing", false)
}

enabled(flag) if {
	percent := object.get(flag, "percent", 0)
	bucket(input.subject.id) < percent
}

# The last digit of an id, times ten.
bucket(id) := to_number(digits[count(digits) - 1]) * 10 if {
	digits := regex.find_n(`[0-9]`, id, -1)
	count(digits) > 0
}
