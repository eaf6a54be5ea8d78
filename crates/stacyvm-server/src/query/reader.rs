//! The pairs of a query as the fields of a type, by serde.
//!
//! Every field is one parameter: an `Option` is none where the parameter is absent or empty, a
//! `Vec` holds the values of a parameter that may be there several times, and a map holds the
//! parameters `field.KEY`. Parameters that the type does not name are ignored.

use std::fmt::Display;
use std::slice::Iter;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

/// The decoded pairs of a query, in their order.
pub(super) type Pairs = [(String, String)];

/// Why a query is not what its type says.
#[derive(Debug)]
pub(super) enum ReadError {
    /// What is wrong with a value, without the parameter's name.
    Value(Fault),
    /// The sentence for the client.
    Sentence(String),
}

/// What is wrong with the value of a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Missing,
    Repeated,
    NotBoolean,
    NotANumber,
    NotPositive,
    NotOneOf(&'static [&'static str]),
}

impl Fault {
    /// The same with the parameter's name, as a sentence.
    fn of(self, name: &str) -> String {
        match self {
            Self::Missing => format!("the query parameter {name} is missing"),
            Self::Repeated => format!("the query parameter {name} is there more than once"),
            Self::NotBoolean => format!("the query parameter {name} must be true or false"),
            Self::NotANumber => format!("the query parameter {name} must be a whole number"),
            Self::NotPositive => {
                format!("the query parameter {name} must be a whole number of at least 1")
            }
            Self::NotOneOf([first @ .., last]) => {
                format!("the {name}s are {} and {last}", first.join(", "))
            }
            Self::NotOneOf([]) => format!("the query parameter {name} is not understood"),
        }
    }

    /// What a number's own type expects: serde's words for `NonZero` types begin with "a nonzero".
    fn of_number(expected: &dyn Expected) -> Self {
        if expected.to_string().starts_with("a nonzero") {
            Self::NotPositive
        } else {
            Self::NotANumber
        }
    }
}

impl ReadError {
    fn named(self, name: &str) -> Self {
        match self {
            Self::Value(fault) => Self::Sentence(fault.of(name)),
            sentence @ Self::Sentence(_) => sentence,
        }
    }

    pub(super) fn into_sentence(self) -> String {
        match self {
            Self::Value(fault) => fault.of("?"),
            Self::Sentence(sentence) => sentence,
        }
    }
}

impl Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(fault) => f.write_str(&fault.of("?")),
            Self::Sentence(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for ReadError {}

impl Error for ReadError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Sentence(message.to_string())
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Value(Fault::of_number(expected))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::Value(Fault::NotOneOf(expected))
    }
}

/// Reads a query into a struct.
pub(super) fn read<T: DeserializeOwned>(pairs: &Pairs) -> Result<T, ReadError> {
    T::deserialize(Query(pairs))
}

struct Query<'a>(&'a Pairs);

impl<'de> Deserializer<'de> for Query<'_> {
    type Error = ReadError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_map(Fields {
            pairs: self.0,
            left: fields.iter(),
            name: "",
        })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ReadError> {
        Err(Error::custom("a query is read into a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Every field of the type, whether the query has it or not.
struct Fields<'a> {
    pairs: &'a Pairs,
    left: Iter<'static, &'static str>,
    name: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some(name) = self.left.next() else {
            return Ok(None);
        };
        self.name = name;
        seed.deserialize(self.name.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let parameter = Parameter {
            pairs: self.pairs,
            name: self.name,
        };
        let value = seed.deserialize(parameter);
        value.map_err(|error| error.named(self.name))
    }
}

/// One parameter, which may be absent.
#[derive(Clone, Copy)]
struct Parameter<'a> {
    pairs: &'a Pairs,
    name: &'static str,
}

impl<'a> Parameter<'a> {
    fn values(self) -> impl Iterator<Item = &'a str> {
        let all = self.pairs.iter();
        all.filter(move |(name, _)| name == self.name)
            .map(|(_, value)| value.as_str())
    }

    /// The value; none when it is absent or empty.
    fn value(self) -> Result<Option<&'a str>, ReadError> {
        let mut values = self.values();
        let first = values.next();
        if values.next().is_some() {
            return Err(ReadError::Value(Fault::Repeated));
        }
        Ok(first.filter(|value| !value.is_empty()))
    }

    fn required(self) -> Result<&'a str, ReadError> {
        self.value()?.ok_or(ReadError::Value(Fault::Missing))
    }
}

/// Numbers are read as the widest of their kind; their own type says whether they fit.
macro_rules! numbers {
    ($($method:ident => $visit:ident,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            match self.required()?.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(ReadError::Value(Fault::of_number(&visitor))),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Parameter<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_str(self.required()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value()? {
            None => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.required()? {
            "true" | "1" => visitor.visit_bool(true),
            "false" | "0" => visitor.visit_bool(false),
            _ => Err(ReadError::Value(Fault::NotBoolean)),
        }
    }

    numbers! {
        deserialize_u8 => visit_u64,
        deserialize_u16 => visit_u64,
        deserialize_u32 => visit_u64,
        deserialize_u64 => visit_u64,
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_enum(self.required()?.into_deserializer())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_seq(SeqDeserializer::new(self.values()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let entries = self.pairs.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix(self.name)?.strip_prefix('.')?;
            Some((key, value.as_str()))
        });
        visitor.visit_map(MapDeserializer::new(entries))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct struct identifier ignored_any
    }
}
