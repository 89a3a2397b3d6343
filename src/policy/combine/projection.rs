//! A document cut down to what a policy reads.

use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap, SerializeStruct},
};
use serde_json::Value;

use crate::policy::reads::Members;

/// Serializes as `value` without the members that are not in `members`.
///
/// Two documents that differ where the policy looks serialize differently: what is kept is kept under its name and in its place.
/// Something that is no object is kept whole, wherever a path would go on.
pub(super) struct Projection<'a, T: ?Sized> {
    pub(super) members: &'a Members,
    pub(super) value: &'a T,
}

impl<T: Serialize + ?Sized> Serialize for Projection<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.members {
            Members::All => self.value.serialize(serializer),
            Members::Some(_) => self.value.serialize(Filter { members: self.members, inner: serializer }),
        }
    }
}

/// Hands scalars on.
macro_rules! as_it_is {
    ($($method:ident($kind:ty),)+) => {
        $(fn $method(self, value: $kind) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        })+
    };
}

/// Writes objects through itself, and everything else as it is.
struct Filter<'a, S> {
    members: &'a Members,
    inner: S,
}

struct FilterMembers<'a, M> {
    members: &'a Members,
    inner: M,
}

impl<M: SerializeMap> FilterMembers<'_, M> {
    fn member<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), M::Error> {
        match self.members {
            Members::All => self.inner.serialize_entry(name, value),
            Members::Some(members) => match members.get(name) {
                Some(members) => self.inner.serialize_entry(name, &Projection { members, value }),
                None => Ok(()),
            },
        }
    }
}

impl<M: SerializeMap> SerializeStruct for FilterMembers<'_, M> {
    type Ok = M::Ok;
    type Error = M::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), M::Error> {
        self.member(name, value)
    }

    fn end(self) -> Result<M::Ok, M::Error> {
        self.inner.end()
    }
}

impl<M: SerializeMap> SerializeMap for FilterMembers<'_, M> {
    type Ok = M::Ok;
    type Error = M::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), M::Error> {
        Err(M::Error::custom("members come with their name"))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), M::Error> {
        Err(M::Error::custom("members come with their name"))
    }

    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        name: &K,
        value: &V,
    ) -> Result<(), M::Error> {
        match serde_json::to_value(name) {
            Ok(Value::String(name)) => self.member(&name, value),
            _ => Err(M::Error::custom("a member has a name that is no text")),
        }
    }

    fn end(self) -> Result<M::Ok, M::Error> {
        self.inner.end()
    }
}

impl<'a, S: Serializer> Serializer for Filter<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = S::SerializeSeq;
    type SerializeTuple = S::SerializeTuple;
    type SerializeTupleStruct = S::SerializeTupleStruct;
    type SerializeTupleVariant = S::SerializeTupleVariant;
    type SerializeMap = FilterMembers<'a, S::SerializeMap>;
    type SerializeStruct = FilterMembers<'a, S::SerializeMap>;
    type SerializeStructVariant = S::SerializeStructVariant;

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Ok(FilterMembers { members: self.members, inner: self.inner.serialize_map(None)? })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.serialize_map(None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        value.serialize(self)
    }

    as_it_is! {
        serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128),
        serialize_f32(f32), serialize_f64(f64), serialize_char(char), serialize_str(&str), serialize_bytes(&[u8]),
        serialize_unit_struct(&'static str),
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_variant(name, index, variant, value)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<S::SerializeSeq, S::Error> {
        self.inner.serialize_seq(len)
    }

    fn serialize_tuple(self, len: usize) -> Result<S::SerializeTuple, S::Error> {
        self.inner.serialize_tuple(len)
    }

    fn serialize_tuple_struct(self, name: &'static str, len: usize) -> Result<S::SerializeTupleStruct, S::Error> {
        self.inner.serialize_tuple_struct(name, len)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<S::SerializeTupleVariant, S::Error> {
        self.inner.serialize_tuple_variant(name, index, variant, len)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<S::SerializeStructVariant, S::Error> {
        self.inner.serialize_struct_variant(name, index, variant, len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::{policy::Reads, testing::policy_input};

    fn projected(value: &impl Serialize, reads: &Reads) -> Value {
        let members = reads.members().unwrap();
        serde_json::from_slice(&serde_json::to_vec(&Projection { members, value }).unwrap()).unwrap()
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i8>().prop_map(Value::from),
            "[ab\".,:]{0,3}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// What stands at a path, or in the way to it.
    fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
        match (value, path) {
            (Value::Object(members), [first, rest @ ..]) => at(members.get(first)?, rest),
            _ => Some(value),
        }
    }

    #[test]
    fn a_question_is_cut_down_to_what_is_read() {
        let mut input = policy_input("GET", "/jobs/{id}");
        input.context.request_id = "r1".to_owned();
        input.subject.properties.claims.insert("team".to_owned(), json!({"name": "north", "size": 3}));
        let reads = Reads::paths([
            &["subject", "id"][..],
            &["subject", "properties", "claims", "team", "name"],
            &["resource", "properties", "path", "0"],
            &["action"],
            &["nothing", "there"],
        ]);
        assert_eq!(
            projected(&input, &reads),
            json!({
                "subject": {"id": "", "properties": {"claims": {"team": {"name": "north"}}}},
                "resource": {"properties": {"path": ["jobs", "{id}"]}},
                "action": {"name": "GET", "properties": {"protocol": "http", "method": "GET"}},
            })
        );
        assert_eq!(projected(&input, &Reads::everything()), serde_json::to_value(&input).unwrap());
        assert_eq!(projected(&input, &Reads::paths([])), Value::Object(Map::new()));
    }

    #[test]
    fn a_member_whose_name_comes_without_its_value_is_refused_rather_than_lost() {
        struct Halved(bool);

        impl Serialize for Halved {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                if self.0 {
                    map.serialize_key("a")?;
                } else {
                    map.serialize_value("a")?;
                }
                map.end()
            }
        }

        let reads = Reads::paths([&["a"][..]]);
        let members = reads.members().unwrap();
        for half in [true, false] {
            assert!(serde_json::to_vec(&Projection { members, value: &Halved(half) }).is_err(), "{half}");
        }
    }

    proptest! {
        /// The other way round than a cache needs it, and so all of it: equal texts, equal answers at every path that is read.
        #[test]
        fn two_documents_that_look_alike_are_alike_wherever_one_looks(
            one in value(), two in value(),
            paths in prop::collection::vec(prop::collection::vec("[abc]", 0..4), 0..4),
        ) {
            let borrowed: Vec<Vec<&str>> = paths.iter().map(|path| path.iter().map(String::as_str).collect()).collect();
            let reads = Reads::paths(borrowed.iter().map(Vec::as_slice));
            if projected(&one, &reads) == projected(&two, &reads) {
                for path in &paths {
                    prop_assert_eq!(at(&one, path), at(&two, path), "{:?}", path);
                }
            }
            for path in &paths {
                let kept = projected(&one, &reads);
                prop_assert_eq!(at(&kept, path), at(&one, path));
            }
        }
    }
}
