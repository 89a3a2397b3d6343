package library.common

reading if input.action.name in {"GET", "HEAD"}

greeting(name) := sprintf("hello %s", [name]) if name != ""

greeting("") := "hello"

grants["read"] if "reader" in input.subject.properties.roles

grants["write"] if "writer" in input.subject.properties.roles

grants["erase"] if {
	"writer" in input.subject.properties.roles
	input.subject.type == "user"
}
