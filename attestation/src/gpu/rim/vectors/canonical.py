"""Makes canonical.json with lxml (libxml2), an implementation of Canonical XML that is not ours.

    pip install lxml && python3 canonical.py > canonical.json
"""

import json

from lxml import etree

DOCUMENTS = [
    ("<a/>", "a"),
    ("<?xml version='1.0' encoding='UTF-8'?>\n<a  b = 'c'   ><d/></a  >\n", "d"),
    ("<a z='1' b=\"2\" xmlns='urn:x' xmlns:q='urn:q' q:a='3' xmlns:p='urn:p' p:z='4'/>", "a"),
    ("<a xmlns='urn:x' xmlns:p='urn:x'><p:b><c/></p:b><b2 xmlns='urn:y'/></a>", "c"),
    ("<a xmlns='urn:x'><b xmlns=''><c xmlns='urn:x'/></b></a>", "b"),
    ("<p:a xmlns:p='urn:1'><p:b xmlns:p='urn:2'><p:c xmlns:p='urn:1'/></p:b></p:a>", "b"),
    ("<a xmlns:u='urn:unused'><b xmlns:u='urn:unused'><c u:d='1'/></b></a>", "c"),
    ("<a b='&lt;&amp;&gt;&quot;&apos;&#9;&#10;&#13;x'>&lt;&amp;&gt;\"'&#13;&#9;</a>", "a"),
    ("<a>one<!-- two -->three</a>", "a"),
    ("<a><![CDATA[<b>&]]>c</a>", "a"),
    ("<a>\r\n  <b/>\r\n</a>", "b"),
    ("<a b='1\r\n2\t3'/>", "a"),
    ("<a>\u00e4\u20ac\U0001f600</a>", "a"),
    (
        "<S xmlns='urn:s' xmlns:n0='urn:s' xmlns:n2='urn:h'>\n <n0:P xmlns:H='urn:h'><n0:R n2:H1='b'"
        " n2:H0='a' type='m' active='True'/></n0:P>\n<d:G xmlns:d='urn:d'><d:I><d:M A='x'/></d:I></d:G></S>",
        "I",
    ),
    ("<a xmlns:b='urn:b' xmlns:a='urn:a' b:x='1' a:y='2' c='3' a:b='4'/>", "a"),
]

out = []
for text, name in DOCUMENTS:
    tree = etree.fromstring(text.encode())
    node = next(n for n in tree.iter("{*}" + name))
    # Serialised as a subset of its document, so that inherited name spaces count.
    subset = etree.tostring(node, method="c14n", with_comments=False, with_tail=False).decode()
    whole = etree.tostring(tree, method="c14n", with_comments=False).decode()
    out.append(dict(document=text, canonical=whole, element=name, element_canonical=subset))
print(json.dumps(out, indent=1))
