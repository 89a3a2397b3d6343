package authz
f(x) := x.y

g(x) if x == "a"

other := "z" if input.nope

xs := {"a": 1} if true

