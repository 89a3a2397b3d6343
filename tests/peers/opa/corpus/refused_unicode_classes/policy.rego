# Letters and digits of any script, where only those of ASCII are meant.
package refused_unicode_classes

default decision := false

decision if regex.match(`^\w+-\d+$`, input.resource.properties.params.ticket)
