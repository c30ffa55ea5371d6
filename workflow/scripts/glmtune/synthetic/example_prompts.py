"""Prompts that the report shows before and after tuning, by the data set that they suit."""

from __future__ import annotations

EXAMPLE_PROMPTS = {
    "sample": [
        "类型#裙*风格#简约*图案#卡通*裙长#连衣裙*领型#立领*袖型#泡泡袖",
        "类型#上衣*材质#纯棉*风格#文艺*图案#刺绣*版型#宽松*领型#圆领",
        "类型#裤*颜色#米白*材质#纯棉*图案#碎花*版型#宽松*裤长#九分裤",
        "类型#外套*颜色#藏青*材质#蕾丝*衣长#短款*领型#方领*门襟#双排扣",
        "类型#鞋*颜色#米白*风格#文艺*图案#条纹*鞋跟#坡跟",
    ],
    # Those of THUDM's tutorial.
    "adgen": [
        "类型#上衣*材质#牛仔布*颜色#白色*风格#简约*图案#刺绣*衣样式#外套*衣款式#破洞",
        "类型#裙*版型#显瘦*风格#文艺*风格#简约*图案#印花*图案#撞色*裙下摆#压褶*裙长#连衣裙*裙领型#圆领",
    ],
}
