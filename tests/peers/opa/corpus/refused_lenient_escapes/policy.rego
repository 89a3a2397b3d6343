# An escape that is none.
package refused_lenient_escapes

default decision := false

decision if startswith(urlquery.decode(input.context.headers["x-path"][0]), "/open")
