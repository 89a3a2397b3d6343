# Points for what is unusual; over a limit somebody has to look, over another nothing happens.
package risk_score

decision := {"allow": false, "reasons": [sprintf("score %v", [score])]} if score >= data.risk_score.limits.deny

decision := {"allow": true, "reasons": [sprintf("score %v", [score])], "obligations": [{"id": "review", "signals": sort(object.keys(signals))}]} if {
	score >= data.risk_score.limits.review
	score < data.risk_score.limits.deny
}

decision := {"allow": true} if score < data.risk_score.limits.review

score := sum([points | some points in signals])

signals["new device"] := 30 if input.context.attributes.device_age_days < 7

signals["travel"] := (input.context.attributes.kilometres / 100) * 2 if input.context.attributes.kilometres > 500

signals["night"] := 15 if time.clock(input.context.time_ns)[0] in {0, 1, 2, 3, 4}

signals["machine"] := 25 if {
	input.subject.type != "user"
	not trusted
}

trusted if data.risk_score.known_clients[input.subject.properties.client_id]

signals["no second factor"] := 20 if count(input.subject.properties.amr) < 2
